"""What bench/fs-compare is made of."""
