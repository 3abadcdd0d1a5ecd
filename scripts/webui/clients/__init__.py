"""What other programs see of units: the routes of the API, and what other extensions import."""
