"""The search: which configuration comes next (bayes), which trial goes on (asha), and the sweep that both serve."""
