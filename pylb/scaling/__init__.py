"""How many workers there should be, and why: pure, times are passed in."""
