"""The frozen vision-language-action model, the residual actor on top of it, and the gate in front of new residual weights."""
