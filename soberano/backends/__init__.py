"""Where arrays live, how kernels are found and compiled, and the plan that ties them to a model."""
