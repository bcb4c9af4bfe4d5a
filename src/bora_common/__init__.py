"""Value types, codecs, parameters and the lifecycle base node that every bora package shares."""
