"""The order in which training reads: shares of data sets, buckets of one size, the sampler."""
