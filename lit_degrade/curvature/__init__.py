"""WHERE: directions in weight space and how curved the loss is along them.

In: a scalar loss and the parameters it is taken over. Out: products, spectra, certified directions. Never: changes a weight.
"""
