"""Machines by name: what is one, what is none, and that their chips are whole devices."""

import importlib.util
import re

import jax
import pytest

from hyperjax import errors, partitioning, topologies

tpu = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is missing')


def test_cpus_are_devices_of_this_process():
  assert len(jax.devices()) == 8
  found = topologies.topology('cpu:6')
  assert len(found.devices) == 6 and found.chip is None
  with pytest.raises(errors.InputError, match='cpu:64, but this process has 8 CPU devices'):
    topologies.topology('cpu:64')


def test_slices_are_parts_of_a_machine():
  found = topologies.topology('2*cpu:4')
  assert (len(found.devices), found.slices) == (8, 2)
  assert topologies.topology('cpu:4').slices == 1


@pytest.mark.parametrize(
  'name', ['v5e', '0*cpu:2', '*cpu:2', 'v5e:8', 'v5e:2*4', 'v5x:2x2', 'cpu:0', 'cpu:two', '']
)
def test_what_is_no_topology_is_told_with_examples(name):
  with pytest.raises(
    errors.InputError, match=f'{re.escape(repr(name))}; give a kind of chip.* v5e:2x4, '
  ):
    topologies.topology(name)


def test_without_libtpu_the_package_to_install_is_told(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.InputError, match=r'v5e:2x4 needs libtpu.* pip install "hyperjax\[tpu'):
    topologies.topology('v5e:2x4')


def test_the_table_is_of_chips_in_the_units_it_says():
  for chip in topologies.CHIPS.values():
    assert 15 * 2**30 < chip.hbm < 96 * 2**30
    assert 100e12 < chip.flops < 1000e12 and 800e9 < chip.hbm_bandwidth < 2800e9
    assert chip.dcn_bandwidth < chip.link_bandwidth / 7
    assert 200e9 <= chip.ports * chip.link_bandwidth <= 600e9


@tpu
@pytest.mark.parametrize('name, chips', [('v4:2x2x1', 4), ('v5e:4x4', 16), ('v5p:2x2x2', 8)])
def test_a_device_is_a_chip(name, chips, monkeypatch):
  for variable, value in topologies.QUIET.items():
    monkeypatch.setenv(variable, value)
  found = topologies.topology(name)
  assert len(found.devices) == chips
  assert found.chip == topologies.CHIPS[name.partition(':')[0]]


@tpu
def test_slices_of_a_tpu_know_themselves(monkeypatch):
  for variable, value in topologies.QUIET.items():
    monkeypatch.setenv(variable, value)
  found = topologies.topology('2*v5e:2x2')
  assert (len(found.devices), found.slices) == (8, 2)
  mesh = partitioning.make_mesh(partitioning.MeshShape(fsdp=2), found.devices)
  assert [device.slice_index for device in mesh.devices[:, 0, 0]] == [0, 0, 1, 1]


@tpu
def test_what_libtpu_does_not_know_is_told_with_examples():
  with pytest.raises(
    errors.InputError, match='v5e:3x5 is none that libtpu knows .*for example v5e'
  ):
    topologies.topology('v5e:3x5')


@tpu
@pytest.mark.parametrize(
  'name, sizes', [('v5p:4x4x4', (1, 32, 2)), ('v5e:4x8', (4, 4, 2)), ('v6e:4x4', (1, 8, 2))]
)
def test_meshes_may_cut_the_sides_of_a_topology(name, sizes, monkeypatch):
  for variable, value in topologies.QUIET.items():
    monkeypatch.setenv(variable, value)
  mesh = partitioning.make_mesh(partitioning.MeshShape(*sizes), topologies.topology(name).devices)
  assert tuple(mesh.shape.values()) == sizes
