"""Building, proving and comparing bundles. The server never imports this."""
