//! Load generator: reads commands from standard input, one JSON object a line, and answers each
//! with one JSON object on standard output. `run.py` is its only user.
//!
//!     nbdload SAMPLE SEED
//!
//! Remembers for every server what it must hold, from one command to the next.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use nbdswap_bench::chance::Chance;
use nbdswap_bench::image::Image;
use nbdswap_bench::load::{self, Outcome, Test};
use nbdswap_bench::sample::Sample;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Command {
    /// Forget what `server` holds and make a new image for it; nothing is sent.
    Image { server: String, page_count: usize },
    /// What a pool of lz4 must hold for the present image of `server`.
    Size { server: String },
    /// Run a test.
    Test {
        server: String,
        socket: PathBuf,
        export: String,
        test: Test,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Size { pool_bytes: u64 },
    Outcome(Outcome),
    Failed { error: String },
}

struct Session {
    sample: Sample,
    chance: Chance,
    images: HashMap<String, Image>,
}

impl Session {
    fn answer(&mut self, command: Command) -> io::Result<Answer> {
        match command {
            Command::Image { server, page_count } => {
                let image = Image::new(page_count, &self.sample, &mut self.chance);
                let pool_bytes = image.pool_bytes(&self.sample);
                self.images.insert(server, image);
                Ok(Answer::Size { pool_bytes })
            }
            Command::Size { server } => {
                let pool_bytes = image_of(&self.images, &server)?.pool_bytes(&self.sample);
                Ok(Answer::Size { pool_bytes })
            }
            Command::Test {
                server,
                socket,
                export,
                test,
            } => {
                let image = image_of(&self.images, &server)?;
                load::run(
                    &socket,
                    &export,
                    &test,
                    image,
                    &self.sample,
                    &mut self.chance,
                )
                .map(Answer::Outcome)
            }
        }
    }
}

fn image_of<'a>(images: &'a HashMap<String, Image>, server: &str) -> io::Result<&'a Image> {
    images
        .get(server)
        .ok_or_else(|| io::Error::other(format!("no image of {server:?}")))
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, sample, seed] = &arguments[..] else {
        return Err(io::Error::other("usage: nbdload SAMPLE SEED"));
    };
    let mut session = Session {
        sample: Sample::read(Path::new(sample))?,
        chance: Chance::new(seed.parse().map_err(io::Error::other)?),
        images: HashMap::new(),
    };
    for line in io::stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(io::Error::other)
            .and_then(|command| session.answer(command))
            .unwrap_or_else(|error| Answer::Failed {
                error: error.to_string(),
            });
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
