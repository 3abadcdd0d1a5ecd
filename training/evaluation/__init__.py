"""How well pictures obey their hints."""
