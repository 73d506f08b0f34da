//! Layers with hand-written backward, losses, optimisers, schedules and the training engine.
#![forbid(unsafe_code)]
