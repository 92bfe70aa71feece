"""The engines that a stack can run on. Each observes, and turns a verb into a plan."""
