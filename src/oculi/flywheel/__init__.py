"""Data, train, test, ship, watch, mine, label: the loop as one."""
