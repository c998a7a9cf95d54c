"""What the fleet's tests share: a started app of the fleet, on each database, with a clock to move."""
