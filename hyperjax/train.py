"""`python -m hyperjax.train --gin_file=…`: a run, described by gin files, from start or resumed."""

from hyperjax import phases

start = phases.Phases()  # before anything that takes long to import

from hyperjax import cli, processes  # noqa: E402


def main() -> None:
  """Trains what the flags describe, with the other processes of the run."""
  config = cli.parse_gin()
  start.ended('imports')
  processes.start()
  start.ended('distributed')
  from hyperjax import trainer  # imports JAX, which a mistyped flag need not wait for

  start.ended('imports')
  try:
    cli.call(trainer.train, config=config, start_up=start)
  except Exception as error:
    if processes.is_lost(error):
      processes.leave(error)
    raise


if __name__ == '__main__':
  cli.define_gin_flags()
  processes.define_flags()
  cli.run(main)
