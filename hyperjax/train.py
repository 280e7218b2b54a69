"""`python -m hyperjax.train --gin_file=…`: a run, described by gin files, from start or resumed."""

from hyperjax import cli, processes


def main() -> None:
  """Trains what the flags describe, with the other processes of the run."""
  config = cli.parse_gin()
  processes.start()
  from hyperjax import trainer  # imports JAX, which a mistyped flag need not wait for

  try:
    cli.call(trainer.train, config=config)
  except Exception as error:
    if processes.is_lost(error):
      processes.leave(error)
    raise


if __name__ == '__main__':
  cli.define_gin_flags()
  processes.define_flags()
  cli.run(main)
