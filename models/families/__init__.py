"""The families of control networks: one file or folder, one family, one paper."""
