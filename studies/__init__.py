"""What spans runs. Imports no torch."""
