"""Load, faults and kills for many minutes."""
