"""Alert rules over what agents report."""
