"""What a rule does and what its predictions mean: the analyses of the papers, each of a finished or running run."""
