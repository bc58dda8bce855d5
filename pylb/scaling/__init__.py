"""How many workers there should be, and why: pure decisions, time passed in."""
