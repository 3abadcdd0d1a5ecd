"""The families of control networks: one file, one family, one paper."""
