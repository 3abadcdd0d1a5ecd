"""Pictures of a request: read from any form, chosen and cut, fitted to the result, and given back in it."""
