"""Linear heads: logistic and ridge regression, the learned sum of layers, codelengths."""
