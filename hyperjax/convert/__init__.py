"""Other people's files <-> our parameters; nobody else knows their names."""
