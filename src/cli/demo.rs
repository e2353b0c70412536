//! `jouled demo`.

use super::{Failure, output, run};
use crate::config::value::Span;
use crate::daemon::{Daemon, Event};
use crate::demo::client::Demo;
use crate::demo::{broker, config, models_folder};
use crate::governor::readings::Sensors;
use crate::signals;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// End after this time, for example 10s; otherwise on Ctrl-C.
    #[arg(long = "for", value_name = "TIME")]
    time: Option<Span>,
    /// Port of the embedded broker on 127.0.0.1; a free one is taken if it is in use.
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    port: u16,
    /// Folder of the shipped models.
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
}

pub fn main(args: &Args) -> Result<(), Failure> {
    let folder = models_folder(args.models.as_deref()).map_err(Failure::Input)?;
    let (stop, events) = signals::events().map_err(|e| Failure::Running(format!("cannot listen to signals: {e}")))?;
    let port = broker::start(args.port).map_err(Failure::Running)?;
    let config = config(port, &folder).map_err(Failure::Configuration)?;
    let daemon = Daemon::start(config, Path::new("/")).map_err(run::refused)?;
    output::write(&greeting(port, &folder))?;
    let demo = Demo::new(&folder, Box::new(thermometer())).map_err(Failure::Input)?;
    demo.start(port).map_err(Failure::Running)?;
    if let Some(time) = args.time {
        stop_after(time.0, stop);
    }
    daemon.run(&events, None);
    let tally = demo.tally();
    output::write(&format!("\n{tally}"))?;
    match args.time {
        Some(time) if time.0 >= Duration::from_secs(3) && !tally.is_good() => {
            Err(Failure::Running("not every answer came or was right".into()))
        }
        _ => Ok(()),
    }
}

fn greeting(port: u16, folder: &Path) -> String {
    let image = folder.join("digits.sample-7.png");
    format!(
        "A replayed vibration sensor, and images as MQTT requests, through a broker on 127.0.0.1:{port}.\n\
         From another terminal, listen and ask:\n\
         \x20 mosquitto_sub -V mqttv5 -p {port} -v -t 'jouled/#'\n\
         \x20 mosquitto_pub -V mqttv5 -p {port} -q 1 -t jouled/demo/model/digits/infer -f {}\n",
        image.display()
    )
}

/// Reads the board's temperature at most once a second.
fn thermometer() -> impl Fn() -> Option<f64> + Send + Sync {
    let start = Instant::now();
    let state = Mutex::new((Sensors::new("/", None), None::<(Instant, Option<f64>)>));
    move || {
        let mut state = state.lock().ok()?;
        let (sensors, last) = &mut *state;
        let fresh = last.filter(|(at, _)| at.elapsed() < Duration::from_secs(1));
        let (at, celsius) = fresh.unwrap_or_else(|| (Instant::now(), sensors.read(start.elapsed()).celsius));
        *last = Some((at, celsius));
        celsius
    }
}

fn stop_after(time: Duration, stop: SyncSender<Event>) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        // The daemon may have ended already.
        let _ = stop.send(Event::Stop);
    });
}
