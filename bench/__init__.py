"""Speed, as ratios to floors measured side by side in the same run: `make bench`, or `python -m bench --help`."""
