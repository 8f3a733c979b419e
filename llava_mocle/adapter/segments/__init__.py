"""The products of a site's rank-r hidden states with stacked experts: one meaning, several ways to compute it."""
