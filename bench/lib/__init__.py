"""What the scripts of bench/ share: works, targets, rounds, statistics, tables."""
