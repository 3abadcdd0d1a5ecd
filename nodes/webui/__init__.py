"""Units from the text that a WebUI writes into its pictures, and back."""
