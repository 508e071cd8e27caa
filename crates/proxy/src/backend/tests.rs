use tokio::io::Interest;

use super::{permits::LEFT_MAX, *};

#[test]
fn permits_are_bounded_and_handed_on_in_order() {
    let permits = Arc::new(Permits::default());
    let backend = |worker| {
        let backend = Backend::new(BackendId::new(1), worker, permits.clone(), Arc::default());
        backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 1000);
        backend
    };
    let (a, b) = (backend(0), backend(1));
    let Available::Permit(first) = a.take(Look::AtRuntime) else { panic!("the first is free") };
    assert!(matches!(b.take(Look::AtRuntime), Available::Full));
    let mut second = b.queue(Waker::noop());
    let mut third = a.queue(Waker::noop());
    assert!(second.poll(Look::AtRuntime).is_pending());
    drop(first);
    assert!(third.poll(Look::AtRuntime).is_pending());
    let Poll::Ready(Available::Permit(second)) = second.poll(Look::AtRuntime) else { panic!("its turn") };
    assert!(matches!(a.take(Look::AtRuntime), Available::Full), "nobody jumps the line");
    drop(second);
    // Granted but never picked up: goes back.
    drop(third);
    assert!(matches!(a.take(Look::AtRuntime), Available::Permit(_)));
}

#[test]
fn leaving_the_line_leaves_no_gap() {
    let permits = Arc::new(Permits::default());
    let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
    backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 1000);
    let Available::Permit(first) = backend.take(Look::AtRuntime) else { panic!("the first is free") };
    let second = backend.queue(Waker::noop());
    let mut third = backend.queue(Waker::noop());
    drop(second);
    drop(first);
    assert!(matches!(third.poll(Look::AtRuntime), Poll::Ready(Available::Permit(_))));
    assert_eq!(permits.waiting.load(Ordering::SeqCst), 0);
}

#[test]
fn who_left_the_line_is_passed_over_and_does_not_stay_in_it() {
    let permits = Arc::new(Permits::default());
    let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
    backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 1000);
    let Available::Permit(permit) = backend.take(Look::AtRuntime) else { panic!("the first is free") };
    let line = || backend.queue(Waker::noop());
    let (mut first, left, mut last) = (line(), line(), line());
    drop(left);
    drop(permit);
    let Poll::Ready(Available::Permit(permit)) = first.poll(Look::AtRuntime) else { panic!("its turn") };
    drop(permit);
    let Poll::Ready(Available::Permit(permit)) = last.poll(Look::AtRuntime) else { panic!("its turn") };
    let stays = line();
    for _ in 0..1000 {
        drop(line());
        assert!(permits.lock().0.len() <= 2 * LEFT_MAX);
    }
    assert_eq!(permits.waiting.load(Ordering::SeqCst), 1);
    drop((stays, permit));
    assert!(matches!(backend.take(Look::AtRuntime), Available::Permit(_)));
}

#[test]
fn a_new_limit_counts_what_is_open_and_lets_in_who_waits() {
    let permits = Arc::new(Permits::default());
    let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
    let limit = |limit| backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), limit, 1000);
    let take = || match backend.take(Look::AtRuntime) {
        Available::Permit(permit) => permit,
        other => panic!("{other:?}"),
    };
    limit(0);
    let mut held = vec![take(), take(), take()];
    limit(2);
    let mut line: Vec<_> = (0..4).map(|_| backend.queue(Waker::noop())).collect();
    held.pop();
    assert!(line[0].poll(Look::AtRuntime).is_pending(), "two are open");
    held.pop();
    let Poll::Ready(Available::Permit(first)) = line[0].poll(Look::AtRuntime) else { panic!("its turn") };
    limit(3);
    let Poll::Ready(Available::Permit(second)) = line[1].poll(Look::AtRuntime) else { panic!("its turn") };
    assert!(line[2].poll(Look::AtRuntime).is_pending());
    limit(0);
    let is_granted = |place: &mut Queued<'_>| matches!(place.poll(Look::AtRuntime), Poll::Ready(Available::Permit(_)));
    assert!(line[2..].iter_mut().all(is_granted));
    drop((first, second, held));
    assert_eq!((permits.open.load(Ordering::SeqCst), permits.waiting.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn dead_connections_are_told_however_many_they_are() {
    let backend = Backend::new(BackendId::new(1), 0, Arc::default(), Arc::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    backend.configure(address, 0, 60_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    // More than a task's budget, which only what is spawned has.
    let taken = local.spawn_local(async move {
        for _ in 0..200 {
            let Available::Permit(permit) = backend.take_new(Look::AtRuntime) else { panic!("no limit") };
            let stream = TcpStream::connect(address).await.expect("it listens");
            drop(listener.accept().expect("connected"));
            stream.ready(Interest::READABLE).await.expect("closed by its peer");
            let link = Link::new(stream, address, permit, &backend);
            backend.idle.borrow_mut().push((link, 0));
        }
        tokio::task::yield_now().await;
        matches!(backend.take(Look::AtRuntime), Available::Permit(_))
    });
    assert!(local.block_on(&runtime, taken).expect("no panic"));
}

#[test]
fn what_the_runtime_was_not_told_is_seen_by_who_asks_the_kernel() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let backend = Backend::new(BackendId::new(1), 0, Arc::default(), Arc::default());
    backend.configure(address, 0, 60_000);
    let idle = || {
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        let (peer, _) = listener.accept().expect("connected");
        let Available::Permit(permit) = backend.take_new(Look::AtRuntime) else { panic!("no limit") };
        (stream, peer, permit)
    };
    let keep = |stream: std::net::TcpStream, permit| {
        stream.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(stream).expect("a runtime");
        backend.put(Link::new(stream, address, permit, &backend), 0);
    };
    let (stream, _peer, permit) = idle();
    keep(stream, permit);
    assert!(matches!(backend.take(Look::AtKernel), Available::Link(_)));
    for said in [&b""[..], b"x"] {
        let (stream, mut peer, permit) = idle();
        io::Write::write_all(&mut peer, said).expect("connected");
        drop(peer);
        // Waits until it is there, without the runtime.
        assert_eq!(stream.peek(&mut [0]).expect("connected"), said.len());
        keep(stream, permit);
        assert!(matches!(backend.take(Look::AtKernel), Available::Permit(_)), "{said:?}");
    }
}

#[test]
fn an_idle_connection_is_kept_for_the_first_in_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let permits = Arc::new(Permits::default());
    let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
    backend.configure(address, 1, 60_000);
    let Available::Permit(permit) = backend.take(Look::AtKernel) else { panic!("nothing is open") };
    let link = |stream: std::net::TcpStream, permit| {
        stream.set_nonblocking(true).expect("a socket");
        Link::new(TcpStream::from_std(stream).expect("a runtime"), address, permit, &backend)
    };
    let connect = || {
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        (stream, listener.accept().expect("connected").0)
    };
    let line = || backend.queue(Waker::noop());
    let (stream, _peer) = connect();
    let (first, mut second) = (line(), line());
    backend.put(link(stream, permit), 0);
    let is_full = || !backend.has_room() && matches!(backend.take(Look::AtKernel), Available::Full);
    assert!(is_full(), "nobody jumps the line");
    drop(first);
    assert!(is_full(), "it is the next one's now");
    let Poll::Ready(Available::Link(kept)) = second.poll(Look::AtKernel) else { panic!("its turn") };

    // Closed before it is taken: the permit is the next one's, and after that it is again the turn of who was first.
    let (mut first, mut second, mut third) = (line(), line(), line());
    backend.put(kept, 0);
    backend.tend(u64::MAX);
    assert!(!first.take_rejoined());
    assert!(first.poll(Look::AtKernel).is_pending());
    assert_eq!((first.take_rejoined(), first.take_rejoined()), (true, false), "others are asked once more");
    let Poll::Ready(Available::Permit(permit)) = second.poll(Look::AtKernel) else { panic!("its turn") };
    drop(permit);
    assert!(third.poll(Look::AtKernel).is_pending());
    let Poll::Ready(Available::Permit(permit)) = first.poll(Look::AtKernel) else { panic!("its turn") };

    // Found to be dead: its permit is for another.
    let (stream, peer) = connect();
    drop(peer);
    // Waits until its end is there.
    assert_eq!(stream.peek(&mut [0]).expect("connected"), 0);
    backend.put(link(stream, permit), 0);
    let Poll::Ready(Available::Permit(permit)) = third.poll(Look::AtKernel) else { panic!("its turn") };
    drop(permit);
    assert_eq!((backend.promised.get(), permits.open.load(Ordering::SeqCst)), (0, 0));
    assert_eq!((permits.waiting.load(Ordering::SeqCst), permits.idle.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn a_private_connection_idles_for_its_client_and_makes_room_at_the_limit() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let permits = Arc::new(Permits::default());
    let backend = Rc::new(Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default()));
    backend.configure(address, 2, 60_000);
    let mut peers = Vec::new();
    let mut private = || {
        let Available::Permit(permit) = backend.take(Look::AtKernel) else { panic!("there is room") };
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        peers.push(listener.accept().expect("connected"));
        stream.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(stream).expect("a runtime");
        let mut link = Link::new(stream, address, permit, &backend);
        link.is_private = true;
        link
    };
    let counts = || (permits.open.load(Ordering::SeqCst), backend.counters.idle.get());
    let keep = |link, now_ms| Own::keep(&backend, link, now_ms).expect("it may idle");
    backend.put(private(), 0);
    assert_eq!(counts(), (0, 0), "it is for nobody else");

    let (first, second) = (keep(private(), 0), keep(private(), 10));
    assert!(matches!(backend.take(Look::AtKernel), Available::Full));
    backend.tend(OWN_MS);
    assert_eq!(counts(), (2, 2), "who logs in has a moment for it");
    backend.tend(OWN_MS + 11);
    assert_eq!((first.backend(), second.backend(), counts()), (None, Some(backend.id), (1, 1)), "one is enough");
    assert!(first.take(Look::AtKernel).is_none());
    let link = second.take(Look::AtKernel).expect("it is open");
    assert!(link.reused && link.is_private);
    assert_eq!(counts(), (1, 0));

    let unused = keep(link, 0);
    backend.tend(60_001);
    assert_eq!((unused.backend(), counts()), (None, (0, 0)));
    drop(keep(private(), 60_001));
    assert_eq!(counts(), (0, 0), "its client has gone");
    let left = keep(private(), 60_001);
    backend.retire();
    assert_eq!((left.backend(), counts()), (None, (0, 0)));
}

#[test]
fn a_backend_refuses_for_a_moment_until_it_is_elsewhere_or_takes_a_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let backend = Backend::new(BackendId::new(1), 0, Arc::default(), Arc::default());
    backend.configure(address, 0, 60_000);
    assert!(!backend.refuses(5000));
    backend.refused(5000);
    assert_eq!([5000, 5999, 6000].map(|now_ms| backend.refuses(now_ms)), [true, true, false]);
    backend.refused(5000);
    backend.configure(address, 10, 60_000);
    assert!(backend.refuses(5000));
    backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 10, 60_000);
    assert!(!backend.refuses(5000));
    backend.refused(5000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_nonblocking(true).expect("a socket");
    let Available::Permit(permit) = backend.take(Look::AtRuntime) else { panic!("nothing is open") };
    let _link = Link::new(TcpStream::from_std(stream).expect("a runtime"), address, permit, &backend);
    assert!(!backend.refuses(5000));
}

#[test]
fn what_a_backend_kept_is_counted_no_more_when_it_leaves() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let (permits, counters) = (Arc::new(Permits::default()), Arc::new(BackendCounters::default()));
    let backend = Backend::new(BackendId::new(1), 0, permits.clone(), counters.clone());
    backend.configure(address, 2, 60_000);
    let stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_nonblocking(true).expect("a socket");
    let Available::Permit(permit) = backend.take(Look::AtRuntime) else { panic!("nothing is open") };
    backend.put(Link::new(TcpStream::from_std(stream).expect("a runtime"), address, permit, &backend), 0);
    let counts = || [u64::from(permits.idle.load(Ordering::SeqCst)), counters.idle.get(), counters.connections.get()];
    assert_eq!(counts(), [1, 1, 1]);
    drop(backend);
    assert_eq!(counts(), [0, 0, 0]);
}
