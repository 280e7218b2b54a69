"""InputError: what the user gave cannot be used, said in one sentence with its mend."""


class InputError(ValueError):
  """A file, field or value from outside is unusable; the verbs print it and exit with status 1."""


class Note(UserWarning):
  """Something that was left out or done with less, as the user allowed, and should know."""
