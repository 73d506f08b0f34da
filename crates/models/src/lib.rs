//! The MLP-Mixer and the masked autoencoder over feature tokens.
#![forbid(unsafe_code)]
