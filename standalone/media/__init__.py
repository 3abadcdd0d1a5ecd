"""Pictures behind a path: folders, patterns, videos, animations and pose files."""
