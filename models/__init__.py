"""Control networks: how a file is recognised and loaded, and what each family computes."""
