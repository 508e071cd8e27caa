//! nginx with the features that Ballast has switched on. It has no table of bindings.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use ballast_testkit::{ports, programs};

use super::{haproxy::Tuning, load::Backend, stage::Subject};
use crate::process::{self, Guarded};

/// Starts it; `None`, with a line that says so, when it is not installed.
///
/// # Errors
/// When it does not listen in time.
pub fn start(folder: &Path, backends: &[Backend], core: Option<usize>, tuning: Tuning) -> Result<Option<Subject>> {
    let Some(program) = programs::find_or_tell("nginx", "nginx-light") else { return Ok(None) };
    let name = match tuning {
        Tuning::Defaults => "nginx",
        Tuning::LargeBodies => "nginx_tuned",
    };
    let plain = ports::free_local()?;
    let folder = folder.join(name);
    fs::create_dir_all(&folder)?;
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration(&folder, plain, backends, tuning))?;
    let log = fs::File::create(folder.join("log"))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&folder).arg("-c").arg(&file).arg("-e").arg(folder.join("error.log"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut process = process::on_core(core, || Guarded::spawn(&mut command))?.context("start nginx")?;
    process
        .wait_listening(plain)
        .with_context(|| format!("nginx said: {}", fs::read_to_string(folder.join("log")).unwrap_or_default()))?;
    Ok(Some(Subject::peer(name, process, plain, None)))
}

fn configuration(folder: &Path, plain: SocketAddr, backends: &[Backend], tuning: Tuning) -> String {
    let servers: String = backends.iter().map(|(_, address)| format!("    server {address};\n")).collect();
    let buffers = match tuning {
        Tuning::Defaults => "",
        Tuning::LargeBodies => "proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k;",
    };
    // Workers of a master that runs as root would otherwise be nobody's and could not write their files.
    // SAFETY: geteuid(2) has no preconditions.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;" } else { "" };
    format!(
        "\
{user}
worker_processes 1;
worker_rlimit_nofile 60000;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 20000; }}
http {{
  access_log {folder}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {folder}/a;
  proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d;
  scgi_temp_path {folder}/e;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  tcp_nodelay on;
  upstream site {{
{servers}    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {plain} backlog=4096;
    location / {{
      proxy_pass http://site;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Request-Id $request_id;
      proxy_max_temp_file_size 0;
      {buffers}
    }}
  }}
}}
",
        folder = folder.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_accepts_both_configurations() {
        let Some(program) = programs::find("nginx") else { return };
        let folder = tempfile::tempdir().unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let plain = ports::free_local().unwrap();
        for tuning in [Tuning::Defaults, Tuning::LargeBodies] {
            let file = folder.path().join("nginx.conf");
            fs::write(&file, configuration(folder.path(), plain, &[("web1".to_owned(), address(3))], tuning)).unwrap();
            let output = Command::new(&program).arg("-t").arg("-p").arg(folder.path()).arg("-c").arg(&file).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
