"""What tests share, and programs that try the product for longer: fuzz, monkey, soak."""
