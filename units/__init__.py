"""What was said about a control -> a unit, once for all edges: requests, their texts, hints, and what can be chosen."""
