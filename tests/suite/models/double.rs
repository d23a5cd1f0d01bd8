//! An HTTP server between a client and a real one: it passes requests on, unless a script says that something else happens.
//! What came through is remembered, so that a test can say what was sent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as the double sees it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether it is this method and its target holds `part`.
    pub(super) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }
}

/// What the double does with a request.
pub(super) enum Act {
    Pass,
    /// Answers itself.
    Answer(u16, &'static str),
    /// Passes it on, and closes the connection without the answer.
    LoseAnswer,
    /// Says nothing for so long, then passes it on.
    Stall(Duration),
}

/// A running double; its threads end with the test process.
pub(super) struct Double {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Double {
    /// Listens on `host` (an address of the loopback network) before `upstream` (host:port).
    pub(super) fn start(host: &str, upstream: &str, script: impl FnMut(&Request) -> Act + Send + 'static) -> Double {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (upstream, script, log) = (upstream.to_owned(), Arc::new(Mutex::new(script)), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (upstream, script, log) = (upstream.clone(), Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || {
                    let decide = |request: &Request| {
                        log.lock().unwrap().push(request.clone());
                        (script.lock().unwrap())(request)
                    };
                    // A client that goes away is no failure of the test.
                    drop(serve(stream, &upstream, decide));
                });
            }
        });
        Double { address, seen }
    }

    pub(super) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request a connection: simple, and enough.
fn serve(mut stream: TcpStream, upstream: &str, decide: impl Fn(&Request) -> Act) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some((request, head)) = read_head(&mut reader)? else { return Ok(()) };
    if request.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let act = decide(&request);
    if let Act::Answer(status, text) = act {
        let answer = format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        return stream.write_all(answer.as_bytes());
    }
    if let Act::Stall(time) = act {
        std::thread::sleep(time);
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if matches!(act, Act::LoseAnswer) {
        return Ok(());
    }
    stream.write_all(&answer)
}

/// The request, and its head as it goes on: as it came, but for the connection, which ends with the answer.
fn read_head(reader: &mut impl std::io::BufRead) -> std::io::Result<Option<(Request, String)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
        if !["connection", "expect"].contains(&name.to_lowercase().as_str()) {
            head.push_str(line.trim_end());
            head.push_str("\r\n");
        }
    }
    head.push_str("connection: close\r\n\r\n");
    Ok(Some((Request { method, target, headers }, head)))
}

/// A request of the test's own to a server at host:port; its answer as JSON.
pub(super) fn ask(method: &str, uri: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
    let address = uri.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut is_chunked = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        is_chunked |= line.to_lowercase().starts_with("transfer-encoding: chunked");
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut text = String::new();
    if !is_chunked {
        reader.read_to_string(&mut text).unwrap();
    }
    // An empty piece is the end.
    let mut is_at_end = !is_chunked;
    while !is_at_end {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        reader.read_exact(&mut piece).unwrap();
        text.push_str(std::str::from_utf8(&piece[..size]).unwrap());
        is_at_end = size == 0;
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
}
