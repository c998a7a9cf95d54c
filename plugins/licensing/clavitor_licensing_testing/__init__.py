"""What the tests of licenses share, also those of other plugins: tokens, and servers with a clock to move."""
