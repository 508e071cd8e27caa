//! A line to another node: questions on a stream that stays open, each with a number.
//!
//! Opening a stream for every question costs more than the question. What is asked in rounds, one after another, is asked
//! on a line, and an answer counts for the question that it names and for no other: one that comes late is passed over.

use ballast_proto::cluster::v1::{FollowsReply, ReadIndexReply};
use futures_util::{Stream, StreamExt, future::BoxFuture};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A node that leaves so many questions unanswered is asked no more until it has answered all of them.
const UNANSWERED_MAX: usize = 64;

/// An answer that names its question.
pub(crate) trait Answer {
    fn question(&self) -> u64;
}

impl Answer for ReadIndexReply {
    fn question(&self) -> u64 {
        self.question
    }
}

impl Answer for FollowsReply {
    fn question(&self) -> u64 {
        self.question
    }
}

/// A line to one node, open or not: questions `Q`, and a stream of answers.
pub(crate) struct Line<Q, S> {
    state: State<Q, S>,
    asked: u64,
    answered: u64,
}

enum State<Q, S> {
    Closed,
    /// Being opened. It goes on to be when whoever asked has stopped waiting: a node that is slow would never be reached if
    /// each question began anew, and would be sent the resets of all those beginnings.
    Opening(mpsc::Sender<Q>, BoxFuture<'static, Result<S, Status>>),
    Open(mpsc::Sender<Q>, S),
}

impl<Q, S> Default for Line<Q, S> {
    fn default() -> Self {
        Self { state: State::Closed, asked: 0, answered: 0 }
    }
}

impl<Q, A: Answer, S: Stream<Item = Result<A, Status>> + Unpin> Line<Q, S> {
    /// Asks what `question` makes of a number, and waits for the answer to it. `open` opens the stream if there is none.
    ///
    /// # Errors
    /// When the stream cannot be opened or ends. The next question opens another one.
    ///
    /// # Cancel safety
    /// Dropping the future gives the answer up; the line goes on, and goes on being opened.
    pub(crate) async fn ask(
        &mut self,
        question: impl FnOnce(u64) -> Q,
        open: impl FnOnce(ReceiverStream<Q>) -> BoxFuture<'static, Result<S, Status>>,
    ) -> Result<A, Status> {
        if matches!(self.state, State::Closed) {
            let (questions, outbound) = mpsc::channel(UNANSWERED_MAX);
            self.state = State::Opening(questions, open(ReceiverStream::new(outbound)));
        }
        let asked = self.ask_opened(question).await;
        if asked.is_err() {
            self.state = State::Closed;
        }
        asked
    }

    async fn ask_opened(&mut self, question: impl FnOnce(u64) -> Q) -> Result<A, Status> {
        if let State::Opening(questions, opening) = &mut self.state {
            let answers = opening.await?;
            self.state = State::Open(questions.clone(), answers);
            self.answered = self.asked;
        }
        self.ask_open(question).await
    }

    async fn ask_open(&mut self, question: impl FnOnce(u64) -> Q) -> Result<A, Status> {
        let ended = || Status::unavailable("the node ended the stream of questions");
        let State::Open(questions, answers) = &mut self.state else { return Err(ended()) };
        while self.asked - self.answered >= UNANSWERED_MAX as u64 {
            self.answered = answers.next().await.ok_or_else(ended)??.question();
        }
        self.asked += 1;
        questions.send(question(self.asked)).await.map_err(|_| ended())?;
        loop {
            let answer = answers.next().await.ok_or_else(ended)??;
            self.answered = answer.question();
            if self.answered == self.asked {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    type TestLine = Line<u64, ReceiverStream<Result<FollowsReply, Status>>>;

    /// Both ends of a line that is open, as the node that is asked has them.
    async fn opened() -> (TestLine, ReceiverStream<u64>, mpsc::Sender<Result<FollowsReply, Status>>) {
        let (answer, answers) = mpsc::channel(100);
        let mut line = TestLine::default();
        let mut questions = None;
        let asked = line.ask(
            |number| number,
            |outbound| {
                questions = Some(outbound);
                Box::pin(async { Ok(ReceiverStream::new(answers)) })
            },
        );
        assert!(asked.now_or_never().is_none(), "nobody answers yet");
        (line, questions.expect("opened"), answer)
    }

    fn never(
        _: ReceiverStream<u64>,
    ) -> BoxFuture<'static, Result<ReceiverStream<Result<FollowsReply, Status>>, Status>> {
        panic!("it is open")
    }

    fn reply(question: u64, follows: bool) -> Result<FollowsReply, Status> {
        Ok(FollowsReply { question, follows })
    }

    #[tokio::test]
    async fn an_answer_that_comes_late_is_not_taken_for_one_to_the_next_question() {
        let (mut line, mut questions, answer) = opened().await;
        assert_eq!(questions.next().await, Some(1));
        answer.send(reply(1, true)).await.expect("somebody listens");
        assert!(line.ask(|number| number, never).now_or_never().is_none());
        assert_eq!(questions.next().await, Some(2));
        answer.send(reply(2, false)).await.expect("somebody listens");
        answer.send(reply(3, true)).await.expect("somebody listens");
        let answered = line.ask(|number| number, never).await.expect("answered");
        assert_eq!(answered, FollowsReply { question: 3, follows: true });
    }

    #[tokio::test]
    async fn a_node_that_does_not_answer_is_not_asked_for_ever() {
        let (mut line, mut questions, answer) = opened().await;
        for _ in 0..200 {
            assert!(line.ask(|number| number, never).now_or_never().is_none());
        }
        for number in 1..=UNANSWERED_MAX as u64 {
            assert_eq!(questions.next().await, Some(number));
            answer.send(reply(number, true)).await.expect("somebody listens");
        }
        assert!(questions.next().now_or_never().is_none(), "no more were asked");
        assert!(line.ask(|number| number, never).now_or_never().is_none());
        assert_eq!(questions.next().await, Some(UNANSWERED_MAX as u64 + 1));
    }

    #[tokio::test]
    async fn a_line_that_opens_slowly_is_opened_once() {
        let mut line = TestLine::default();
        let (open, opened) = tokio::sync::oneshot::channel::<()>();
        let (answer, answers) = mpsc::channel(1);
        let mut questions = None;
        let asked = line.ask(
            |number| number,
            |outbound| {
                questions = Some(outbound);
                Box::pin(async {
                    opened.await.map_err(|_| Status::unavailable("gone"))?;
                    Ok(ReceiverStream::new(answers))
                })
            },
        );
        assert!(asked.now_or_never().is_none(), "it is slow, and nobody waits");
        open.send(()).expect("it is still being opened");
        answer.send(reply(1, true)).await.expect("room for one");
        let answered = line.ask(|number| number, never).await.expect("answered");
        assert_eq!(answered.question, 1);
        assert_eq!(questions.expect("opened").next().await, Some(1), "the first question was never asked");
    }

    #[tokio::test]
    async fn a_line_that_ended_is_opened_again() {
        let (mut line, questions, answer) = opened().await;
        drop((questions, answer));
        assert!(line.ask(|number| number, never).await.is_err());
        let (answer, answers) = mpsc::channel(1);
        // The second found nobody.
        answer.send(reply(3, true)).await.expect("room for one");
        let mut questions = None;
        let answered = line.ask(
            |number| number,
            |outbound| {
                questions = Some(outbound);
                Box::pin(async { Ok(ReceiverStream::new(answers)) })
            },
        );
        assert_eq!(answered.await.map(|answer| answer.question).ok(), Some(3));
    }
}
