"""`python -m hyperjax.train --gin_file=…`: a run, described by gin files, from start or resumed."""

from hyperjax import cli


def main() -> None:
  """Trains what the flags describe."""
  config = cli.parse_gin()
  from hyperjax import trainer  # imports JAX, which a mistyped flag need not wait for

  cli.call(trainer.train, config=config)


if __name__ == '__main__':
  cli.define_gin_flags()
  cli.run(main)
