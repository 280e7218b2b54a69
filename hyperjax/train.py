"""`python -m hyperjax.train --gin_file=…`: a run, described by gin files, from start or resumed."""

from hyperjax import cli


def main() -> None:
  cli.parse_gin()
  import gin

  from hyperjax import trainer

  cli.call(trainer.train, config=gin.config_str())


if __name__ == '__main__':
  cli.define_gin_flags()
  cli.run(main)
