"""What the documents are made with: the reference out of the code, pictures out of real runs."""
