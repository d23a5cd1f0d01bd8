#[test] fn placeholder() {}

mod checkpoint;
