"""Attention gives the same numbers whatever computes it, and says what does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.models import attention, t5

CONFIG = dataclasses.replace(tiny.DOWNSTREAM, head_dim=8, num_encoder_layers=1)
SITE = attention.Site('self-attention', jnp.bfloat16, 4, 6, 8, 2, 64)
LENGTHS = dict(s=8, t=6, h=10)


def prefix(contexts, masked=False, gate=False):
  """A prefix of 4 columns in both stacks and in cross-attention."""
  length, rng = 4, np.random.default_rng(3)
  phi = tiny.filled(peft.PrefixTuning(length).spec(CONFIG, contexts), 1, 0.7)

  def attended(stack, layers):
    front = stack.attention.prefix
    if masked:
      mask = (np.arange(contexts)[:, None] + np.arange(length)) % 3 != 1
      front = dataclasses.replace(front, mask=mask)
    if gate:
      front = dataclasses.replace(front, gate=rng.standard_normal((layers, contexts, 4)))
    return peft.AttentionPhi(front)

  decoder = attended(phi.decoder, 3)
  return peft.Phi(peft.LayerPhi(attended(phi.encoder, 1)), peft.LayerPhi(decoder, decoder))


PHIS = {
  'none': None,
  'prefix': dataclasses.replace(
    prefix(3, masked=True),
    memory=peft.Memory(tiny.normal(1, 2, 10), np.array([[True, False]])),
  ),
  'gated': prefix(1, gate=True),
}


@pytest.fixture
def cudnn_here(monkeypatch):
  """cuDNN's arguments are made, checked, and computed by XLA; in float32 too."""
  real, calls = jax.nn.dot_product_attention, []

  def checked(query, key, value, bias, *, scale, implementation):
    assert implementation == 'cudnn' and scale == 1
    assert query.dtype == key.dtype == value.dtype and key.shape == value.shape
    b, t, n, _ = query.shape
    if bias is not None:
      assert bias.dtype == query.dtype and bias.shape[2:] == (t, key.shape[1])
      assert bias.shape[0] in (1, b) and bias.shape[1] in (1, n)
    calls.append(query.shape)
    return real(query, key, value, bias, scale=scale, implementation='xla')

  monkeypatch.setattr(attention, 'machine_lacks', lambda: None)
  monkeypatch.setattr(jax.nn, 'dot_product_attention', checked)
  monkeypatch.setitem(attention._LOWEST, jnp.dtype('float32'), attention.MASKED)
  return calls


@functools.partial(jax.jit, static_argnames='config')
def loss_and_gradient(config, params, batch, phi):
  """Of the real targets' logits, for the parameters and for phi."""

  def loss(given):
    params, phi = given
    logits = t5.T5(config).apply({'params': params}, batch, phi)
    real = batch['decoder_target_tokens'] > 0
    return jnp.sum(jnp.sin(logits) * real[..., None])

  return jax.value_and_grad(loss, allow_int=True)((params, phi))


def under(kernel, phi):
  """The loss and its gradients with a kernel; contexts, padding and causality as in training."""
  params, batch = tiny.params_of(t5.T5(CONFIG)), tiny.rows(tiny.batch(**LENGTHS), 0, None)
  config = dataclasses.replace(CONFIG, attention=kernel)
  made = jax.tree.leaves(loss_and_gradient(config, params, batch, phi))
  return [leaf for leaf in made if leaf.dtype != jax.dtypes.float0]


@pytest.mark.parametrize('phi', PHIS.values(), ids=PHIS)
def test_all_kernels_give_the_same_logits_and_gradients(cudnn_here, monkeypatch, phi):
  """Of cuDNN, what it is given; blocks of 2 of the 8 and 6 queries."""
  monkeypatch.setattr(attention, '_block', lambda queries: 2)
  expected = under('xla', phi)
  assert not cudnn_here
  tiny.close(under('cudnn', phi), expected)
  assert len(cudnn_here) >= 3  # encoder, decoder, cross-attention
  tiny.close(under('blocks', phi), expected)


def test_rows_share_a_memory_whatever_the_kernel(cudnn_here):
  model = lambda kernel: t5.T5(dataclasses.replace(CONFIG, attention=kernel))
  params = tiny.params_of(t5.T5(CONFIG))
  memory = peft.Memory(tiny.normal(2, 8, 10), np.arange(8) < np.array([[8], [5]]))
  tokens = np.arange(2, 2 + 6 * 4).reshape(6, 4)
  mask = jnp.tril(jnp.ones((1, 4, 4), bool))
  read = lambda kernel: tiny.apply(model(kernel), params, tokens, memory, mask, method='read')[0]
  for kernel in ('cudnn', 'blocks'):
    np.testing.assert_allclose(read(kernel), read('xla'), atol=2e-6)
  assert cudnn_here


def bfloat16_errors(kernel, above=0.0, b=2, t=6, s=34, n=3, h=16):
  """Root mean square of (bfloat16 - float32) over that of float32: output, dq, dk, dv, dbias.

  `above` is added to all logits, which changes nothing as long as they are in float32.
  """
  shapes = [(b, t, n, h), (b, s, n, h), (b, s, n, h), (n, t, s), (b, t, n, h)]
  *arrays, ahead = [jnp.asarray(tiny.normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
  arrays[3] += above
  arrays = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in arrays]  # exact in both
  mask = jnp.asarray(np.arange(s) < np.array([[[s]], [[s - 9]]]))

  def rounded(query, key, value, bias):
    site = dataclasses.replace(SITE, rows=b, queries=t, own=s, prefix=0)
    query, key, value = (x.astype(jnp.bfloat16) for x in (query, key, value))
    return kernel.of(site, mask, bias, None).attend(query, attention.KeyValue(key, value))

  def exact(query, key, value, bias):
    logits = jnp.einsum('btnh,bsnh->bnts', query, key, precision='highest') + bias[None]
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -1e10))
    return jnp.einsum('bnts,bsnh->btnh', weights, value, precision='highest')

  @functools.partial(jax.jit, static_argnums=0)
  def results(attend, *arrays):
    def total(*arrays):
      y = attend(*arrays).astype(jnp.float32)
      return jnp.sum(y * ahead), y

    gradients, y = jax.grad(total, range(4), has_aux=True)(*arrays)
    return [y, *gradients]

  pairs = zip(results(rounded, *arrays), results(exact, *arrays))
  return [float(jnp.sqrt(jnp.mean((x - y) ** 2) / jnp.mean(y**2))) for x, y in pairs]


@pytest.mark.parametrize('kernel', attention.KERNELS)
def test_bfloat16_attention_is_as_exact_as_bfloat16(cudnn_here, monkeypatch, kernel):
  """The softmax is in float32: errors are those of rounding operands, and gradients once more.

  cuDNN's bias is rounded too, and so must not be far above 0.
  """
  monkeypatch.setattr(attention, '_block', lambda queries: 2)
  above = 0.0 if kernel == 'cudnn' else 64.0
  assert max(bfloat16_errors(attention.KERNELS[kernel], above)) < 2**-8


def test_cudnn_itself_is_as_exact_as_bfloat16():
  """On a GPU: JAX_PLATFORMS=cuda."""
  if lacking := attention.machine_lacks():
    pytest.skip(f'no cuDNN attention here: {lacking}')
  assert max(bfloat16_errors(attention.CuDnn, t=64, s=128, h=64)) < 2**-6


# -- Which kernel ----------------------------------------------------------------------------------


def test_cudnn_is_taken_where_it_fits(monkeypatch):
  monkeypatch.setattr(attention, 'machine_lacks', lambda: None)
  assert attention.choose(SITE) == attention.Choice('self-attention', attention.CuDnn)
  assert attention.choose(SITE, 'cudnn') == attention.choose(SITE)
  assert attention.choose(SITE, 'blocks').kernel is attention.Blocks
  asked = attention.Choice('self-attention', attention.Xla, "ATTENTION is 'xla'")
  assert attention.choose(SITE, 'xla') == asked


@pytest.mark.parametrize(
  'change,reason',
  [
    ({'dtype': jnp.float32}, 'float32 instead of bfloat16'),
    ({'head_dim': 60}, 'head_dim 60, not a multiple of 8'),
    ({'head_dim': 136}, 'head_dim 136, not a multiple of 8 up to 128'),
    ({'queries': 5}, '5 queries and 10 keys, not both even'),
    ({'prefix': 3}, '6 queries and 11 keys, not both even'),
    ({'dropout': True}, 'dropout of its weights'),
  ],
)
def test_cudnn_is_refused_with_its_reason(monkeypatch, change, reason):
  monkeypatch.setattr(attention, 'machine_lacks', lambda: None)
  site = dataclasses.replace(SITE, **change)
  chosen = attention.choose(site)
  assert chosen.kernel is attention.Xla and reason in chosen.reason
  with pytest.raises(InputError, match=f"is 'cudnn', but cuDNN cannot .* self-attention: {reason}"):
    attention.choose(site, 'cudnn')


def test_a_cache_is_read_by_xla_whatever_is_wanted(monkeypatch):
  monkeypatch.setattr(attention, 'machine_lacks', lambda: None)
  site = dataclasses.replace(SITE, cached=True, queries=1)
  for wanted in (None, *attention.KERNELS):
    assert attention.choose(site, wanted).kernel is attention.Xla


def test_cudnn_is_refused_on_a_machine_without_it():
  model = t5.T5(dataclasses.replace(CONFIG, attention='cudnn', dtype='bfloat16'))
  params = tiny.params_of(model)  # made with any kernel
  with pytest.raises(
    InputError, match="'cudnn', but cuDNN cannot compute this self-attention: cpu"
  ):
    tiny.apply(model, params, tiny.rows(tiny.batch(**LENGTHS), 0, None))


def line(config, batch, phi=None):
  """What is said of a model that is traced on a batch."""
  params = tiny.params_of(t5.T5(CONFIG))
  with attention.overheard() as found:
    jax.eval_shape(lambda: t5.T5(config).apply({'params': params}, batch, phi))
  return attention.in_words(found)


def test_a_run_says_what_computes_attention(monkeypatch):
  batch = tiny.rows(tiny.batch(**LENGTHS), 0, None)
  assert line(CONFIG, batch) == 'attention: XLA (cpu)'
  monkeypatch.setattr(attention, 'machine_lacks', lambda: None)
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  odd = prefix(3).decoder
  odd = dataclasses.replace(odd, cross_attention=None)
  odd = peft.Phi(decoder=jax.tree.map(lambda leaf: leaf[:, :, :3], odd))
  monkeypatch.setattr(jax.nn, 'dot_product_attention', lambda query, *_, **__: query)
  assert line(config, batch) == 'attention: cuDNN'
  assert line(config, batch, odd) == (
    'attention: cuDNN in encoder/self-attention, decoder/cross-attention; '
    'XLA in decoder/self-attention (6 queries and 9 keys, not both even)'
  )


def test_programs_for_cuda_call_cudnn_forward_and_backward(monkeypatch):
  """A program lowered for CUDA, on a machine without: its calls, and what they are given."""
  fused = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')

  class Version:
    @staticmethod
    def cudnn_get_version():
      return 91000

  monkeypatch.setattr(fused, 'cuda_versions', Version)
  monkeypatch.setattr(attention, 'machine_lacks', lambda: None)
  config = dataclasses.replace(CONFIG, dtype='bfloat16', attention='cudnn')
  params, phi = tiny.params_of(t5.T5(CONFIG)), PHIS['prefix']
  batch = tiny.rows(tiny.batch(**LENGTHS), 0, None)

  def loss(params, phi):
    return jnp.sum(t5.T5(config).apply({'params': params}, batch, phi))

  traced = jax.jit(jax.grad(loss)).trace(params, phi)
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  assert text.count('__cudnn$fmhaScaleBiasSoftmax(') >= 3
  assert text.count('__cudnn$fmhaScaleBiasSoftmaxBackward(') >= 3
