//! The floor as a program: see `nbdswap_bench::floor`.
//!
//!     nbdfloor SOCKET BYTES
//!
//! Prints `ready` when it listens; ends when it is killed.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;

use nbdswap_bench::floor::{self, Pages};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, bytes] = &arguments[..] else {
        return Err(io::Error::other("usage: nbdfloor SOCKET BYTES"));
    };
    let pages = Arc::new(Pages::new(bytes.parse().map_err(io::Error::other)?));
    let listener = UnixListener::bind(path)?;
    println!("ready");
    for socket in listener.incoming() {
        let (socket, pages) = (socket?, Arc::clone(&pages));
        thread::spawn(move || {
            // A client that ends without goodbye is its own affair; the others go on.
            if let Err(error) = floor::serve(socket, &pages) {
                eprintln!("nbdfloor: {error}");
            }
        });
    }
    Ok(())
}
