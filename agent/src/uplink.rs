//! The stream to the collector: batches up, acknowledgements down, back-off in between.
