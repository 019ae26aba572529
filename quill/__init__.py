"""What the programs rely on: one module per concern. None of them imports a program."""
