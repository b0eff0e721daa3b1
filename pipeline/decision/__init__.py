"""What will be done and why: similarity, size, case, plan, quote."""
