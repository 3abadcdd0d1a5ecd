"""Hints that are pictures still: as they are, recoloured, softened, or with a part to be invented."""
