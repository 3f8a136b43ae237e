"""What a code is made of: a permutation of 80 bits, a readable alphabet, a check symbol. No table, no state."""
